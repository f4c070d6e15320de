"""Tests of amp_pipeline."""
