def page(report, said):
    return said
