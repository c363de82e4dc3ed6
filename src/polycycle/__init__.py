"""polycycle: teach an open-weights LLM new languages without making it forget the ones it knows.

Importing this package makes transformers' Auto classes know the upcycled models:

    import polycycle
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("runs/el-hu-tr/review")
"""

from polycycle.families import register_when_transformers_loads

__version__ = "0.1.0"

register_when_transformers_loads()
