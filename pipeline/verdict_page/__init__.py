"""``reports/verdict.html``: the verdict as one page that a person can read, print and send on."""
