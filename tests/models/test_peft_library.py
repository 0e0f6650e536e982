"""PEFT comes without torch's compiler, and what it compiles is compiled when it is called."""

import subprocess
import sys

import torch

from dpo_video.models.peft_library import compiled_when_called


def test_importing_a_policys_parts_imports_no_compiler() -> None:
    program = (
        "import sys; import dpo_video.models.load; "
        "print('torch._inductor.compile_fx' in sys.modules, 'bitsandbytes' in sys.modules, "
        "torch.compile.__module__)"
    ).replace("import sys;", "import sys, torch;")
    done = subprocess.run(
        [sys.executable, "-c", program], text=True, capture_output=True, check=True
    )
    assert done.stdout.split() == ["False", "True", "torch"]


def test_what_is_decorated_meanwhile_is_compiled_at_its_first_call() -> None:
    traced: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        traced.append("compiled")
        return graph.forward

    with compiled_when_called():

        @torch.compile(backend=backend, dynamic=False)
        def twice(x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    assert traced == [] and twice.__name__ == "twice"
    for _ in range(2):
        torch.testing.assert_close(twice(torch.ones(3)), torch.full((3,), 2.0))
    assert traced == ["compiled"]
