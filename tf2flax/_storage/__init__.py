"""Where bytes lie: local files and stores; the only folder that imports tensorstore."""
