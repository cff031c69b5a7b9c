"""The statistics that prefcli reports, each defined once: estimates and their intervals."""
