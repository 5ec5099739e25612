"""Normal forms, fingerprints, sketches: what can be said of a state whatever the labelling of its units."""

from weyl.canonical._coordinates import centred, in_double
from weyl.canonical._fingerprint import COUNTER, exact_part, fingerprint, labelled, shapes_of
from weyl.canonical._form import Form, canonicalize, normal_places, public_element, slack_of
from weyl.canonical._normal import normal_gauge, restricted
from weyl.canonical._signatures import block_view, signatures
from weyl.canonical._sketch import sketch

__all__ = [
    "COUNTER",
    "Form",
    "block_view",
    "canonicalize",
    "centred",
    "exact_part",
    "fingerprint",
    "in_double",
    "labelled",
    "normal_gauge",
    "normal_places",
    "public_element",
    "restricted",
    "shapes_of",
    "signatures",
    "sketch",
    "slack_of",
]
