"""A conversation of turns between marks, as InternVL's `conversation.py` offers it."""

from copy import deepcopy
from dataclasses import dataclass, field


@dataclass
class Conversation:
    name: str
    system_template: str
    system_message: str
    roles: tuple[str, str]
    sep: str
    messages: list[list[str | None]] = field(default_factory=list)

    def get_prompt(self) -> str:
        text = self.system_template.format(system_message=self.system_message) + self.sep
        for role, message in self.messages:
            text += role + (message + self.sep if message else "")
        return text

    def append_message(self, role: str, message: str | None) -> None:
        self.messages.append([role, message])

    def copy(self) -> "Conversation":
        return deepcopy(self)


TEMPLATES = {
    name: Conversation(
        name=name,
        system_template="<|im_start|>system\n{system_message}",
        system_message="a model that looks at the video",
        roles=("<|im_start|>user\n", "<|im_start|>assistant\n"),
        sep=sep,
    )
    for name, sep in (
        ("Hermes-2", "<|im_end|>"),
        ("internlm2-chat", "<|im_end|>"),
        ("internvl2_5", "<|im_end|>\n"),
    )
}
TEMPLATES["phi3-chat"] = Conversation(
    name="phi3-chat",
    system_template="<|system|>\n{system_message}",
    system_message="a model that looks at the video",
    roles=("<|user|>\n", "<|assistant|>\n"),
    sep="<|end|>",
)


def get_conv_template(name: str) -> Conversation:
    return TEMPLATES[name].copy()
