"""The status page in its parts: a document, a style, and a script in the order of `status_page`. No code of ours."""
