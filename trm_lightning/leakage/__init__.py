"""The leak audit: does a prediction depend on the token that it predicts?"""
