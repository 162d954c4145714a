"""The model card: what a network is for, what it was made from, what it can and can't do, and under which licences.

Made when a bundle is released, from what judged it, and packed into its Bento as the README (Mitchell et al.,
"Model Cards for Model Reporting", 2019, gives the headings).
"""
