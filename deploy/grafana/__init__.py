"""The Grafana dashboard, as code: `python -m deploy.grafana` writes its JSON to standard output.

    panels.py       what a panel is in Grafana's JSON, and how panels are laid out
    rows.py         which panels there are, and their queries
    dashboard.py    the whole of it

Plain dictionaries, because neither generator on PyPI serves: grafanalib has had no release since January
2024, and grafana-foundation-sdk ends at Grafana 11.6, with versions that do not sort as Grafana's do.
"""
