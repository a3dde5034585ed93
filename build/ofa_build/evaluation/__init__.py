"""How good captions are: the field's metrics, over any data, by the model itself or as served."""
