"""The JSON Schema of products.yml, for editors."""

import json

from orchestration.catalog.checkout import SAMPLE_ROOT
from orchestration.catalog.products import Product, json_schema

PRODUCTS = SAMPLE_ROOT / "products"


def test_the_samples_products_yml_refers_to_the_schema_that_the_model_exports() -> None:
    name = "products.schema.json"
    assert f"$schema={name}" in (PRODUCTS / "products.yml").read_text()
    assert json.loads((PRODUCTS / name).read_text()) == json_schema(), (
        "write it anew: python -m orchestration generate --schema"
    )


def test_the_schema_knows_every_field_of_a_product_and_no_other() -> None:
    product = json_schema()["$defs"]["Product"]
    assert set(product["properties"]) == set(Product.model_fields)
    assert product["required"] == ["id", "build_command"]
    assert product["additionalProperties"] is False
