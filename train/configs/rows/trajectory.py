"""DMVS whose queries carry the ordered trajectory of their object; labels by overlap."""

model = dict(type="trajectory")
loss = dict(assignment="overlap")
