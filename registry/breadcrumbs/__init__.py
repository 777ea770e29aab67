"""The science: task directions, breadcrumb masks, patch files and their composition, without database and HTTP."""
