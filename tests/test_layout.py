"""What must hold of the code as text: which way imports point, where randomness and data come from,
docstrings."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED = [
    *PROJECT["dependencies"],
    *(line for extra in PROJECT["optional-dependencies"].values() for line in extra),
]
ORDER = (
    "recsim_env",
    "policies",
    "agents",
    "benchmarks",
)  # each imports only what stands left of it, and itself

# Loading by these runs code that a file carries. Nothing here may; results and weights are parquet,
# JSON, safetensors.
RUNS_CODE = {
    "pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve",
    "eval", "exec", "torch.load", "torch.save", "numpy.load", "numpy.save", "pandas.read_pickle",
}  # fmt: skip

# Library-wide generators. `torch.manual_seed` is allowed inside `with torch.random.fork_rng(...)`,
# which puts the state
# back: modules draw their first weights from nowhere else.
OWN_GENERATORS = {
    "numpy.random": {
        "Generator",
        "default_rng",
        "SeedSequence",
        "BitGenerator",
        "PCG64",
        "PCG64DXSM",
        "Philox",
    },
    "random": {"Random"},
    "torch.random": {"fork_rng", "get_rng_state"},
}
SEEDS_ALL = {
    "torch.manual_seed", "torch.seed", "torch.set_rng_state", "torch.cuda.manual_seed", "torch.cuda.manual_seed_all",
    "transformers.set_seed", "stable_baselines3.common.utils.set_random_seed",
}  # fmt: skip
NEEDS_GENERATOR = {
    f"torch.{name}"
    for name in ("rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial")
}
NEEDS_GENERATOR_IN_PLACE = {
    "uniform_", "normal_", "bernoulli_", "exponential_", "random_", "log_normal_", "cauchy_", "geometric_",
}  # fmt: skip

# path -> dotted names that it may use all the same; say why beside each.
ALLOWED: dict[str, set[str]] = {
    # forward in training mode: dropout of ids and of texts, which draws from where nn.Dropout draws
    "recsim_env/shoppers/household/distil.py": {"torch.rand"},
    "recsim_env/shoppers/household/model.py": {"torch.rand"},
    "recsim_env/shoppers/household/text.py": {"torch.randperm"},
    # transformers' Trainer seeds the library-wide generators; everyone else's state is put back
    "recsim_env/shoppers/training.py": {
        "numpy.random.get_state",
        "numpy.random.set_state",
        "random.getstate",
        "random.setstate",
    },
    # looks at where the library-wide generators stand, to see that nobody moved them
    "recsim_env/testing/generators.py": {"numpy.random.get_state", "random.getstate"},
    # SB3's distributions draw from the library-wide generators; agents/ppo/randomness.py lends SB3
    # a state of its own of each and puts everyone else's back
    "policies/learnable/sb3.py": {"torch.rand"},
    "agents/ppo/rollout_buffer.py": {
        "numpy.random.permutation"
    },  # the minibatches of SB3's buffer, likewise
    # MORL-Baselines draws from the library-wide generators, inside a state of its own
    "benchmarks/lab/capql.py": {"stable_baselines3.common.utils.set_random_seed"},
    "agents/ppo/randomness.py": {
        "torch.set_rng_state",
        "numpy.random.get_state",
        "numpy.random.set_state",
        "random.getstate",
        "random.setstate",
    },
    # RecSim draws from numpy's library-wide generator; each of its users is lent a state of their
    # own, and everyone else's is put back
    "benchmarks/lab/recsim_evolution.py": {
        "numpy.random.MT19937",
        "numpy.random.get_state",
        "numpy.random.set_state",
    },
}


@dataclass(frozen=True)
class Use:
    """A dotted name as the interpreter would resolve it, and where it stands."""

    name: str
    line: int
    node: ast.AST
    forked: bool  # inside `with torch.random.fork_rng(...)`


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=relative(path))


ALL = [path for package in ORDER for path in sources(package)]
each_source = pytest.mark.parametrize("path", ALL, ids=relative)


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, with its line; relative imports made absolute."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            yield ".".join([*base, *([node.module] if node.module else [])]), node.lineno


def uses(tree: ast.AST) -> list[Use]:
    """Names and attribute chains that start at an import or a builtin, resolved through `import ...
    as`."""
    alias: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                alias[name.asname or name.name.split(".")[0]] = (
                    name.name if name.asname else name.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for name in node.names:
                alias[name.asname or name.name] = f"{node.module}.{name.name}"

    def dotted(node: ast.AST) -> str | None:
        if isinstance(node, ast.Name):
            return alias.get(node.id, node.id)
        if isinstance(node, ast.Attribute) and (base := dotted(node.value)) is not None:
            return f"{base}.{node.attr}"
        return None

    found: list[Use] = []

    def visit(node: ast.AST, forked: bool) -> None:
        if isinstance(node, ast.With):
            opened = [item.context_expr for item in node.items]
            calls = [dotted(call.func) for call in opened if isinstance(call, ast.Call)]
            forked = forked or "torch.random.fork_rng" in calls
        if isinstance(node, ast.Import):
            found.extend(Use(name.name, node.lineno, node, forked) for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.extend(
                Use(f"{node.module}.{name.name}", node.lineno, node, forked) for name in node.names
            )
        elif isinstance(node, (ast.Name, ast.Attribute)) and (name := dotted(node)) is not None:
            found.append(Use(name, node.lineno, node, forked))
        for child in ast.iter_child_nodes(node):
            visit(child, forked)

    visit(tree, False)
    return found


def runs_code(tree: ast.AST) -> set[str]:
    """Names in RUNS_CODE, or below one of them, that a file uses."""
    names = {use.name for use in uses(tree)}
    return {
        name
        for name in names
        if any(name == bad or name.startswith(f"{bad}.") for bad in RUNS_CODE)
    }


def global_randomness(tree: ast.AST) -> set[str]:
    """Uses of a library-wide generator."""
    bad: set[str] = set()
    for use in uses(tree):
        module, _, attribute = use.name.rpartition(".")
        own = OWN_GENERATORS.get(module)
        if own is not None and attribute not in own:
            bad.add(use.name)
        if use.name in SEEDS_ALL and not use.forked and not isinstance(use.node, ast.ImportFrom):
            bad.add(use.name)
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for use in uses(tree):
        call = calls.get(id(use.node))
        if use.name in NEEDS_GENERATOR and call is not None and not _passes_generator(call):
            bad.add(use.name)
    for call in calls.values():
        method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        if (
            method in NEEDS_GENERATOR_IN_PLACE
            and not _passes_generator(call)
            and not _is_init(call)
        ):
            bad.add(f"Tensor.{method}")
    return bad


def _passes_generator(call: ast.Call) -> bool:
    return any(keyword.arg == "generator" for keyword in call.keywords)


def _is_init(call: ast.Call) -> bool:
    """`nn.init.normal_(...)` and the like, which initialise modules and belong into a fork_rng
    block of the caller."""
    return (
        isinstance(call.func, ast.Attribute)
        and ast.unparse(call.func.value).split(".")[-1] == "init"
    )


def undocumented(tree: ast.Module) -> list[str]:
    """Public functions and classes at the top level of a module that have no docstring."""
    return [
        node.name
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
        and not any(
            ast.unparse(decorator).split(".")[-1] == "overload" for decorator in node.decorator_list
        )
    ]


# --- the rules -----------------------------------------------------------------------------------


@pytest.mark.parametrize("package", ORDER)
def test_every_folder_of_code_is_a_package(package: str) -> None:
    folders = {path.parent for path in sources(package)} | {ROOT / package}
    assert [
        relative(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()
    ] == []


@each_source
def test_imports_point_left(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    right = {*ORDER[ORDER.index(package) + 1 :], "tests"}
    assert [
        f"line {line}: {name}" for name, line in imported(path) if name.split(".")[0] in right
    ] == []


@each_source
def test_what_is_imported_is_declared(path: Path) -> None:
    names = {_distribution(line) for line in DECLARED}
    distributions = packages_distributions()
    undeclared = []
    for module, line in imported(path):
        top = module.split(".")[0]
        if top in sys.stdlib_module_names or top in ORDER or top == "__future__":
            continue
        if not names & {_normal(name) for name in distributions.get(top, [])}:
            undeclared.append(f"line {line}: {module}")
    assert undeclared == []


@each_source
def test_nothing_runs_code_from_a_file(path: Path) -> None:
    assert runs_code(parse(path)) - ALLOWED.get(relative(path), set()) == set()


@each_source
def test_no_library_wide_generator(path: Path) -> None:
    assert global_randomness(parse(path)) - ALLOWED.get(relative(path), set()) == set()


@each_source
def test_public_functions_and_classes_say_what_they_do(path: Path) -> None:
    assert undocumented(parse(path)) == []


def test_lower_bounds_are_the_versions_that_test_lowest_installs() -> None:
    extras = PROJECT["optional-dependencies"]
    lines = [
        *PROJECT["dependencies"],
        *(
            line
            for extra, named in extras.items()
            if extra not in ("dev", "docs")
            for line in named
        ),
    ]
    bounds = {line.replace(">=", "==") for line in lines if not line.startswith("torch>")}
    assert set(_pins("constraints-lowest.txt")) - {"torch==2.13.0"} == bounds


def test_constraints_pin_every_dependency_exactly() -> None:
    pins = _pins("constraints.txt")
    assert [line for line in pins if line.count("==") != 1 or "+" in line or "/" in line] == []
    pinned = {_distribution(line) for line in pins}
    assert {_distribution(line) for line in DECLARED} - pinned == set()
    assert "torch==2.13.0" in pins


def _pins(file: str) -> list[str]:
    return [
        line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")
    ]


def _distribution(requirement: str) -> str:
    for sign in "=<>~!;[ ":
        requirement = requirement.partition(sign)[0]
    return _normal(requirement)


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


# Who may read `Outcome.response`, the chances before the noise, beside `recsim_env` itself.
READS_RESPONSES = {"agents/ppo/vec_env.py"}  # trains on expected clicks and survival


@pytest.mark.parametrize("package", ["policies", "agents"])
def test_policies_and_agents_do_not_see_the_chances_before_the_noise(package: str) -> None:
    found = {relative(path) for path in sources(package) if reads(parse(path), "response")}
    assert found - READS_RESPONSES == set()


def reads(tree: ast.AST, attribute: str) -> bool:
    """Whether a file reads an attribute of this name, of any object."""
    named = (node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    asked = (
        ast.unparse(node.args[1]).strip("'\"")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("getattr", "operator.attrgetter")
        and len(node.args) > 1
    )
    return attribute in {*named, *asked}


# --- the rules see what they should --------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import pickle", {"pickle"}),
        ("from cloudpickle import loads", {"cloudpickle.loads"}),
        ("import torch as t\nt.load('x')", {"torch.load"}),
        ("from torch import load as read\nread('x')", {"torch.load"}),
        ("eval('1')", {"eval"}),
        ("import numpy as np\nnp.load('x')", {"numpy.load"}),
        ("model.eval()\nmodel.load(path)\nimport json\njson.load(file)", set()),
        ("import torch\nclass A:\n    pass\nA().load('x')", set()),
    ],
)
def test_code_running_loaders_are_seen(code: str, found: set[str]) -> None:
    assert runs_code(ast.parse(code)) == found


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import numpy as np\nnp.random.seed(0)", {"numpy.random.seed"}),
        ("import numpy as np\nnp.random.rand(3)", {"numpy.random.rand"}),
        ("from numpy.random import rand", {"numpy.random.rand"}),
        ("from numpy import random\nrandom.shuffle(x)", {"numpy.random.shuffle"}),
        ("import numpy as np\nnp.random.default_rng(0).random(3)", set()),
        ("import random\nrandom.random()", {"random.random"}),
        ("import random\nrandom.Random(0).random()", set()),
        ("import torch\ntorch.manual_seed(0)", {"torch.manual_seed"}),
        ("import torch\nwith torch.random.fork_rng():\n    torch.manual_seed(0)", set()),
        ("import torch\ntorch.randn(3)", {"torch.randn"}),
        ("import torch\ntorch.randn(3, generator=g)", set()),
        ("import torch\ntorch.Generator().manual_seed(0)", set()),
        ("x.uniform_(0, 1)", {"Tensor.uniform_"}),
        ("x.uniform_(0, 1, generator=g)\nnn.init.normal_(x)", set()),
        ("draws = self.np_random.random(3)\nrandom = 3\nnoise.random_walk(random)", set()),
    ],
)
def test_library_wide_generators_are_seen(code: str, found: set[str]) -> None:
    assert global_randomness(ast.parse(code)) == found


def test_missing_docstrings_are_seen() -> None:
    code = "def a(): ...\ndef _b(): ...\nclass C: ...\nclass D:\n    '''said'''\n    def e(self): ...\n"
    assert undocumented(ast.parse(code)) == ["a", "C"]


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("outcome.response.left", True),
        ("getattr(outcome, 'response')", True),
        ("response = 3\nresponses.left", False),
    ],
)
def test_reading_an_attribute_is_seen(code: str, found: bool) -> None:
    assert reads(ast.parse(code), "response") is found


def test_relative_imports_are_resolved() -> None:
    names = {name for path in ALL for name, _ in imported(path)}
    assert "" not in names
