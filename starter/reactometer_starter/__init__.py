"""The starter model of reactometer in the folder ``model``: weights only, under the licence beside them."""
