"""Size and text: modules stay short; no machine's paths and no loose ends in the tree."""

from tests.architecture import rules

RATCHET = rules.TOP / "tests" / "architecture" / "size_ratchet.txt"
# The one module that spells what it looks for; the samples below are put together at run time.
EXEMPT = {"tests/architecture/rules.py"}


def test_no_module_is_over_400_lines_or_grows() -> None:
    files = rules.python_files(rules.TOP)
    sizes = {
        str(path.relative_to(rules.TOP)): len(path.read_text(encoding="utf-8").splitlines())
        for path in files
    }
    assert "manage.py" in sizes
    allowed = rules.read_ratchet(RATCHET.read_text(encoding="utf-8"))
    assert rules.ratchet_faults(sizes, allowed) == []


def test_a_module_that_grows_shrinks_or_goes_is_noticed() -> None:
    allowed = rules.read_ratchet("# why\n500 a.py\n500 b.py  # reason\n450 c.py\n450 d.py\n")
    sizes = {"a.py": 501, "b.py": 480, "c.py": 400, "new.py": 401, "small.py": 10}
    assert rules.ratchet_faults(sizes, allowed) == [
        "a.py has 501 lines, at most 500",
        "b.py shrank to 480 lines: write that instead of 500",
        "c.py is within 400 lines: take it off the list",
        "new.py has 401 lines, at most 400",
        "d.py is listed and does not exist",
    ]


def test_no_text_names_a_machine_path_or_leaves_a_loose_end() -> None:
    files = rules.text_files(rules.TOP)
    assert rules.TOP / "Makefile" in files
    assert rules.TOP / ".ci" / "run" in files
    faults = []
    for path in files:
        name = str(path.relative_to(rules.TOP))
        if name not in EXEMPT:
            faults += rules.text_faults(path.read_text(encoding="utf-8", errors="replace"), name)
    assert faults == []


def test_machine_paths_and_loose_ends_are_noticed() -> None:
    todo = "TO" + "DO"
    text = f'A = "/{"root"}/x"\n# {todo}: later\n# {todo}(#12): the rest\nB = "https://a.test/home/b"\n'
    assert rules.text_faults(text, "a.py") == [
        f"a.py:1 names a machine path: /{'root'}/x",
        f"a.py:2 {todo} without an issue, as in {todo}(#12)",
    ]
    assert len(rules.text_faults(text, "a.md")) == 1
