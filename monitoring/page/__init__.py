"""``var/monitoring/index.html``: what the watch saw and decided, on one page that needs no server and no script."""
