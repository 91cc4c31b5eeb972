"""Demonstrations: the library at work on real data. `fastgd demo byzantine` runs `fastgd.demo.byzantine`."""
