"""The HTTP side: a bounded server, its pages, the live page, and who may ask for what."""
