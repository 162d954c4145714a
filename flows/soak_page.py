def page(report: dict[str, object], said: str) -> str:
    return said
