"""`zoo study`: does a new block learn better than others, in hosts of the catalogue, at the same cost and with the same care?"""
