"""The science: task directions, breadcrumb masks, patch files and their composition. Knows no database and no HTTP."""
