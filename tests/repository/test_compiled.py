"""What setup.py has compiled where GOMODEL_COMPILE=1: modules that exist, and all that have to be with them."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]


def compiled() -> set[Path]:
    """The files that setup.py names."""
    (rooms,) = (
        ast.literal_eval(each.value)
        for each in ast.parse((ROOT / "setup.py").read_text()).body
        if isinstance(each, ast.Assign) and ast.unparse(each.targets) == "COMPILED"
    )
    return {ROOT / "gomodel" / room / f"{name}.py" for room, names in rooms.items() for name in names}


def classes(path: Path) -> list[ast.ClassDef]:
    return [each for each in ast.walk(ast.parse(path.read_text())) if isinstance(each, ast.ClassDef)]


def test_what_is_compiled_exists() -> None:
    assert [str(each) for each in compiled() if not each.is_file()] == []
    assert len(compiled()) > 20


def test_no_class_that_is_interpreted_derives_from_one_that_is_compiled() -> None:
    """mypyc's classes do not allow it, but for protocols, which are no classes to it."""
    bases = {
        each.name
        for path in compiled()
        for each in classes(path)
        if "Protocol" not in [ast.unparse(base) for base in each.bases]
    }
    found = [
        f"{path.relative_to(ROOT)}: {each.name}"
        for path in sorted(set((ROOT / "gomodel").rglob("*.py")) - compiled())
        for each in classes(path)
        if bases & {ast.unparse(base).rpartition(".")[2] for base in each.bases}
    ]
    assert found == []
