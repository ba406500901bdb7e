"""One script per table, figure or question; installed as ``gradlab_studies``. Files with a leading underscore are shared parts."""
