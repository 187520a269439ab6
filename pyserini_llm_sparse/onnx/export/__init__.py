"""An export: written in one way after the other, compared with torch, and kept only if it is close."""
