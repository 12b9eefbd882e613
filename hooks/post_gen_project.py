"""Print the next steps."""

import json

ANSWERS = json.loads(r"""{{ cookiecutter | tojson }}""")

print(f"""
{ANSWERS["project_name"]} is ready. Next, in a virtual environment:

    cd {ANSWERS["project_name"]}
    pip install -e ".[dev]"
    python -m {ANSWERS["__package_name"]} train

README.md tells how to put in your own data and model.""")
