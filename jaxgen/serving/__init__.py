"""An HTTP service of trained models; needs `pip install 'jaxgen[serve]'`."""
