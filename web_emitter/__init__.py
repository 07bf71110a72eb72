"""The web side: publishes every access to Kafka and shows the enriched logs.

`emitter/` is a library that an application can use alone; `site/` is the application that serves
the pages. `contract.py` is the only module that kp_platform and web_emitter share.
"""
