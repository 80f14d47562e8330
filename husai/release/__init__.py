"""What is handed on of a run: the model card that carries its verdict."""
