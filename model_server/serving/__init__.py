"""Models, their queues and their workers, as the frontend sees them. Knows no HTTP and no torch."""
