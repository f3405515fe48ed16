"""The server-side scripts of Toril and the catalogue that composes them."""
