"""`stream-rnn top`: a screen over what a daemon tells; it asks like anybody and changes nothing."""
