"""Write the dashboard's JSON to standard output."""

import json
import sys

from deploy.grafana.dashboard import dashboard

sys.stdout.write(json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n")
