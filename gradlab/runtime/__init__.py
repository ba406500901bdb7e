"""What any long-running program needs: files, checkpoints, locks, signals, several processes, heartbeat, progress."""
