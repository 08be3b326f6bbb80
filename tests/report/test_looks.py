from fedserdiff.methods import METHODS
from fedserdiff.report.looks import LOOKS, look


def test_every_method_of_the_package_has_a_look_of_its_own_and_any_other_has_one() -> None:
    looks = [look(name) for name in METHODS]
    assert len(set(looks)) == len(looks)
    assert look("nobody's") == look("nobody's")
    assert look("nobody's") not in LOOKS.values()
