"""Small things every floor needs: errors, atomic files, seeds, progress bars, the repository's folders."""
