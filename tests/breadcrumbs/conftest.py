"""Tests of the science; its builders are in makers_breadcrumbs.py beside this file."""
