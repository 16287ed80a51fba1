"""The same work on other task queues, each as its own documentation recommends."""
