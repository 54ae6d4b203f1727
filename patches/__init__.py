"""Every line that touches SGLang."""


def register() -> None:
    """The entry point of SGLang's plugin group, called in each of its processes.

    Nothing is patched unless the server asks for tool speculation by flag.
    """
    from sglang_paste.patches.arm import enter

    enter()
