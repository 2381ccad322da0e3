"""``swarmctl launch``: files with which other programs start nodes on other machines."""
