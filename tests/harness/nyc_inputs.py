"""Small made-up inputs of NYC's products: rows by dataset.

What `tests.harness.template_files` makes of them says what a row's geometry is.
"""

from collections.abc import Mapping

from tests.harness.template_files import Row, Rows

Inputs = Mapping[str, Rows]

# Zoning tax lots: a lot within everything, one over the border of two districts and maps, one in a
# park, whose overlay does not count, and one where nothing is zoned.
IN_ALL, OVER_A_BORDER = (0, 0, 100, 100), (440, 0, 100, 100)
IN_A_PARK, NOWHERE = (1100, 0, 100, 100), (3000, 0, 100, 100)
AROUND_THE_FIRST, AROUND_THE_THIRD = (-50, -50, 200, 200), (1080, -50, 200, 200)


def tax_lot(lot: int, geom: tuple[float, ...]) -> Row:
    bbl = f"100001{lot:04}"
    dates = {"CREATED_DA": "2020/01/01", "LAST_EDI_1": "2020/01/01"}
    return {"BORO": "1", "BLOCK": 1, "LOT": lot, "BBL": bbl, **dates, "geom": geom}


def zoned(lot: int, *districts: str) -> Row:
    """A row of the product itself, as a version before published it."""
    columns = (
        *(f"Zoning District {n}" for n in range(1, 5)),
        *(f"Commercial Overlay {n}" for n in range(1, 3)),
        *(f"Special District {n}" for n in range(1, 4)),
        *("Limited Height District", "Zoning Map Number", "Zoning Map Code"),
    )
    place = {"Borough Code": 1, "Tax Block": 1, "Tax Lot": lot, "BBL": f"100001{lot:04}"}
    return place | dict(zip(columns, districts, strict=True))


ZONING_TAX_LOTS: Inputs = {
    "dof_dtm": [
        tax_lot(1, IN_ALL),
        tax_lot(2, OVER_A_BORDER),
        tax_lot(3, IN_A_PARK),
        tax_lot(4, NOWHERE),
    ],
    "dcp_zoningdistricts": [
        {"ZONEDIST": "R6", "geom": (-100, -100, 600, 400)},
        {"ZONEDIST": "C4-4", "geom": (500, -100, 500, 400)},
        {"ZONEDIST": "PLAYGROUND", "geom": (1050, -100, 300, 400)},
    ],
    "dcp_commercialoverlay": [
        {"OVERLAY": "C1-2", "geom": AROUND_THE_FIRST},
        {"OVERLAY": "C2-4", "geom": AROUND_THE_THIRD},
    ],
    "dcp_specialpurpose": [{"SDNAME": "Clinton", "SDLBL": "CL", "geom": AROUND_THE_FIRST}],
    "dcp_limitedheight": [{"LHNAME": "Low", "LHLBL": "LH-1", "geom": AROUND_THE_FIRST}],
    "dcp_zoningmapamendments": [
        {"EFFECTIVE": "2019/01/01", "PROJECT_NA": "A rezoning", "geom": AROUND_THE_FIRST}
    ],
    "dcp_zoningmapindex": [
        {"ZONING_MAP": "12a", "geom": (-200, -200, 700, 800)},
        {"ZONING_MAP": "12b", "geom": (500, -200, 3000, 800)},
    ],
    "dcp_zoningtaxlots": [
        zoned(1, "R5", "", "", "", "C1-2", "", "CL", "", "", "LH-1", "12a", ""),
        zoned(9, "R6", "R7", "R8", "R9", "C1-1", "C1-2", "CL", "MiD", "L", "LH-2", "12b", "Y"),
    ],
}

# Block grants: a tract of two block groups where many earn little, and one far away where few do.
# A lot lies half in each of the two groups.
GROUP_1, GROUP_2, FAR_AWAY = (0, 0, 1000, 1000), (1000, 0, 1000, 1000), (20000, 0, 1000, 1000)
BOTH_GROUPS = (0, 0, 2000, 1000)
MANHATTAN = {"BOROCODE": "1", "BORONAME": "Manhattan"}


def census_block(geoid: str, geom: tuple[float, ...]) -> Row:
    return MANHATTAN | {
        "CB2020": geoid[11:],
        "CT2020": geoid[5:11],
        "BCTCB2020": "1" + geoid[5:],
        "GEOID": geoid,
        "geom": geom,
    }


def census_tract(tract: str, neighborhood: str, geom: tuple[float, ...]) -> Row:
    return MANHATTAN | {
        "CTLABEL": str(int(tract) // 100),
        "CT2020": tract,
        "BOROCT2020": "1" + tract,
        "NTANAME": f"Around {neighborhood}",
        "NTA2020": neighborhood,
        "GEOID": "36061" + tract,
        "geom": geom,
    }


def low_income(group: str, low: str, low_or_moderate: str, people: str, percentage: str) -> Row:
    return {
        "GEOID": group,
        "BORO": "Manhattan",
        "TRACT": group[5:11],
        "BLKGRP": group[11:],
        "LOW": low,
        "LOWMOD": low_or_moderate,
        "LOWMODUNIV": people,
        "LOWMOD_PCT": percentage,
    }


def mapped_lot(bbl: int, floor_area: int, residential: int, shape: tuple[float, ...]) -> Row:
    return {"bbl": bbl, "bldgarea": floor_area, "resarea": residential, "wkb_geometry": shape}


BLOCK_GRANTS: Inputs = {
    "dcp_cb2020_wi": [
        census_block("360610001001000", GROUP_1),
        census_block("360610001002000", GROUP_2),
        census_block("360610002001000", FAR_AWAY),
    ],
    "dcp_ct2020_wi": [
        census_tract("000100", "MN0101", BOTH_GROUPS),
        census_tract("000200", "MN0202", FAR_AWAY),
    ],
    "dcp_mappluto_clipped": [
        mapped_lot(1000010001, 10000, 8000, (100, 100, 100, 100)),
        mapped_lot(1000010002, 4000, 2000, (950, 100, 100, 100)),
        mapped_lot(1000020001, 5000, 1000, (20100, 100, 100, 100)),
    ],
    "hud_lowmodincomebyblockgroup": [
        low_income("360610001001", "1,000", "1,700", "2,000", "85%"),
        low_income("360610001002", "300", "700", "2,000", "35%"),
        low_income("360610002001", "200", "400", "4,000", "10%"),
    ],
    "dcp_projectbbls_cy": [
        {"Project_Id": "P1", "All_ZAP_BBLs": "1000010001, 1000010002", "Project_Name": "Near"},
        {"Project_Id": "P2", "All_ZAP_BBLs": "1000020001", "Project_Name": "Far"},
    ],
}

# Budget requests: one for a park, one for a library, one that somebody mapped by hand, one that
# names a place that nobody knows, and one that is for no place.
IS_SPECIFIC = "is_this_request_specific_to_a_particular_site,_location,_or_fac"
SITE = "site_or_facility_name:request_location_(complete_all_that_apply"


def budget_request(id: str, is_specific: str, site: str) -> Row:
    wanted = {"type": "Capital", "policy_area": "Parks", "need_group": "Parks", "need": "More"}
    return {"current_year_id": id, **wanted, "request": id, IS_SPECIFIC: is_specific, SITE: site}


def answer(id: str) -> Row:
    return {
        "dcpuniqid": id,
        "trkno": f" {id}-T ",
        "borough": "Manhattan",
        "cb_label": "M 07",
        "type": "C",
        "reason": f"Because\n{id}",
        "lowsgrp1": "n/a",
        "lowsgrp2": f"Friends of {id}",
        "agency_acronym": "DPR",
        "agency_response": "Yes; later",
    }


BUDGET_REQUESTS: Inputs = {
    "dcp_cbbr_requests": [
        budget_request("R1", "Yes", "Riverbank Park"),
        budget_request("R2", "Yes", "The Old Town Library"),
        budget_request("R3", "Yes", ""),
        budget_request("R4", "Yes", "Nowhere"),
        budget_request("R5", "No", ""),
    ],
    "omb_cbbr_agency_responses": [answer(f"R{number}") for number in range(1, 6)],
    "dcp_cbbr_manualmappings": [
        {"unique_id": "R3", "geom": "010100000000000000008052c00000000000604440"}
    ],
    "dpr_parksproperties": [{"signname": "Riverbank", "borough": "M", "geom": (0, 0, 100, 100)}],
    "dcp_facilities": [
        {
            "FACNAME": "THE OLD TOWN LIBRARY",
            "BORO": "MANHATTAN",
            "FACGROUP": "LIBRARIES",
            "FACSUBGRP": "PUBLIC LIBRARIES",
            "geom": (50, 50),
        }
    ],
    "doitt_buildingfootprints": [
        {
            "base_bbl": "1000010001",
            "bin": "1000001",
            "height_roof": "10",
            "construction_year": "1900",
            "feature_code": "1",
            "ground_elevation": "1",
            "geom": (0, 0, 10, 10),
        }
    ],
    "dcp_managing_agencies_lookup": [
        {"managing_agency_acronym": "DPR", "managing_agency": "Parks", "agency_code": "846"}
    ],
}

# The city's lots: one with two capital projects on it, and one with none.
LOT_WITH_PROJECTS = (0, 0, 100, 100)
CITY_LOTS: Inputs = {
    "dcp_mappluto_wi": [
        {"bbl": 1000010001, "bct2020": "1000100", "trnstzone": "In", "geom": LOT_WITH_PROJECTS},
        {"bbl": 1000020001, "bct2020": "1000200", "trnstzone": "", "geom": (20100, 0, 100, 100)},
    ],
    "dcp_ct2020": BLOCK_GRANTS["dcp_ct2020_wi"],
}
# What the product reads from other places of the team's storage: a file by bucket and key.
CITY_LOTS_STORED: Mapping[tuple[str, str], Rows] = {
    ("PRIVATE_BUCKET", "datasets/dcas_lift/20261101/dcas_lift.csv"): [
        {"BBL": 1000010001, "PARCEL_NAME": "A yard"},
        {"BBL": 1000020001, "PARCEL_NAME": "A garage"},
    ],
    (
        "PRIVATE_BUCKET",
        "datasets/dcp_dri_subindices_indicators/20261101/dcp_dri_subindices_indicators.csv",
    ): [{"ntacode": "MN0101", "ntaname": "Around MN0101", "displacementriskindex": "High"}],
    ("PUBLISHING_BUCKET", "db-cpdb/publish/26adopt/cpdb_projects_poly.shp.zip"): [
        {"MAPROJID": "P", "DESCRIPT": "A park, new", "SPTOTAL": 1000.5, "geom": (-50, -50, 99, 99)}
    ],
    ("PUBLISHING_BUCKET", "db-cpdb/publish/26adopt/cpdb_projects_pts.shp.zip"): [
        {"MAPROJID": "T", "DESCRIPT": "Trees", "SPTOTAL": 20.0, "geom": (50, 50)}
    ],
}
