"""Define one study per table, figure or question; installed as ``gradlab_studies``. Files ``_name.py`` are shared
parts."""
