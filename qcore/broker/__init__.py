"""All of Redis: keys, scripts, connections, transitions. The only package that imports redis."""
