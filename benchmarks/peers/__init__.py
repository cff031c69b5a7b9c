"""What runs on the other side: scripts for the virtual environments of peers. None of them imports prefcli."""
