"""Print the next steps."""

import os

# The first hook has checked these names: they have nothing in them that a text cannot hold.
print("""
{{ cookiecutter.project_name }} is ready. Next, in a virtual environment:

    cd {{ cookiecutter.project_name }}
    pip install -e ".[dev]"
    python -m {{ cookiecutter.__package_name }} train

README.md tells how to put in your own data and model.""")
chosen: str = "{{ cookiecutter.license }}"
if chosen == "none" and os.path.exists("LICENSE"):
    print("\nLICENSE is from before: delete it if the project has no license any more.")
