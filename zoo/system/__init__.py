"""What is asked of the operating system: folders, kinds of files, child processes."""
