"""How much a service can take: `python -m deploy.load.knee`, or `knee.js` with k6."""
