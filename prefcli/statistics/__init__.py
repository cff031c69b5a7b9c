"""The statistics that prefcli reports, each defined once: what is counted, and how sure it is."""
