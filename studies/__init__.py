"""Studies: questions put to real networks with the public interface of weyl alone; what they found is in README.md."""
