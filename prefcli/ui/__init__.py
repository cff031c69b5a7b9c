"""`prefcli ui`: a local page to give preferences, watch runs and talk to models. No torch but to score or to chat."""
