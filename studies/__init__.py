"""One script per table, figure or question, installed as ``gradlab_studies``; ``_name.py`` is a shared part."""
